"""Exit statuses of the commands."""

SUCCESS = 0
FAILED = 1  # may succeed if tried again
UNUSABLE = 2  # the command line or the configuration cannot be used; of plan, that is FAILED
CHANGES = 2  # of plan: a sync would change something, as terraform's -detailed-exitcode
COULD_NOT_LOOK, WRONG = 1, 2  # of doctor: a check could not look; something is wrong, as of explain
READER_GONE = 141  # nobody reads standard output any more; as shells report SIGPIPE
INTERRUPTED = 130  # by SIGINT, as shells report it
