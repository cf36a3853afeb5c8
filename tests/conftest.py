"""What all tests have in common."""

import hypothesis

# A busy machine is slow now and then; that is no fact about our code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
