"""The base of errors that have a remedy for the operator."""


class HintedError(Exception):
    """Something is wrong that an operator can fix.

    Attributes:
        message: What is wrong.
        hint: The remedy, which the text of the error has in parentheses; empty if there is none to name.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint
