"""What is wrong with a file of weights."""

from ..errors import UserError


class WeightsError(UserError, ValueError):
    """A file of weights that cannot be used; the message says what to do."""
