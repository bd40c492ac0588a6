"""Answers for operators, from rows and objects that others have gathered: pure, without clock, socket or log."""
