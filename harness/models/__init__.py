"""What methods share: network architectures, neurons, surrogates, layers. Needs torch and pydantic only."""
