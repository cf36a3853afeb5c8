"""MLflow's view of a sweep: one parent run a sweep, one child run a trial, its best network as a registered model.

The files stay the truth. Everything is found again by tags, so that sending twice changes nothing. One process writes,
the one that runs the sweep.
"""

from harness.tracking.server import TrackingError, default_uri, public
from harness.tracking.tracker import Sent, Tracker, resend

__all__ = ["Sent", "Tracker", "TrackingError", "default_uri", "public", "resend"]
