"""What we believe of the kernel: the rows that were read, and what became of them by each plan since.

Law: a row is believed because the kernel told it, or because it did not refuse the step that made it so.
"""

from collections.abc import Collection

from kubeproxy_py.model.rows import Key, Link, Rows
from kubeproxy_py.model.steps import Plan


def after(plan: Plan, actual: Rows, refused: Collection[Key], desired: Rows, *, is_whole: bool) -> Rows:
    """*actual*, or a dict in its place, once *plan* was carried out but for the *refused*.

    *is_whole*: the plan was for every row that is *desired*.
    """
    copied = is_whole and not refused and len(plan) > len(actual)
    if copied:  # at once: a dict that grows by 140,000 takes twice the memory on its way
        actual = {**desired, **{key: spec for key, spec in actual.items() if key not in desired}}
    for step in plan:
        if step.key in refused or (copied and step.key in desired):
            continue
        if step.verb == "delete":
            actual.pop(step.key, None)
        else:
            actual[step.key] = step.spec
    return actual


def grow_sooner(rows: Rows) -> None:
    """Have *rows* take new memory at another moment than the desired rows, which are as many and change with them.

    A dict counts each place that was ever used, and takes new memory when all were: for 140,000 rows 10 MB, and an
    event waits for both.  So an eighth of the places is used up here.
    """
    key = Link("")
    for _ in range(len(rows) // 8):
        rows[key] = None
        del rows[key]
