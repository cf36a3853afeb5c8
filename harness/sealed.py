"""Environment variables that a user forwards to a job, passwords among them, closed with the cluster's own token.

Ray writes a job's variables into its logs and shows them on its dashboard. So they travel encrypted, and the job's
processes open them as they start, with the token that they have anyway.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from harness import authentication
from harness.experiment_file import ConfigError

VARIABLE = "HARNESS_SEALED"
HOOK = "harness.sealed.unseal"
"""What Ray calls in every worker of the job as it starts; the driver calls it itself."""


def seal(variables: Mapping[str, str], token: str) -> str:
    """The variables as text that only who has the token can read."""
    return _cipher(token).encrypt(json.dumps(dict(variables)).encode()).decode()


def unseal() -> None:
    """Set the variables that `VARIABLE` holds in this process.

    Raises ConfigError, without their content, where this node's token does not open them.
    """
    if not (text := os.environ.get(VARIABLE)):
        return
    from cryptography.fernet import InvalidToken

    token = authentication.token()
    try:
        os.environ.update(json.loads(_cipher(token or "").decrypt(text.encode())))
    except InvalidToken:
        raise ConfigError(f"{VARIABLE}: not closed with the token of this node, or no token is here") from None


def _cipher(token: str) -> Any:
    from cryptography.fernet import Fernet

    # The token is 256 random bits, so that one round suffices; the prefix keeps this key from any other use of it.
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"snn-harness sealed variables\0" + token.encode()).digest()))
