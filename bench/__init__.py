"""`make bench`: the cost of the agent, measured on the lab kernel and compared with the cost of the kernel itself.

Invariants:
  - Each figure is measured in this run.
  - Figures that are divided by each other are measured alternately in one boot, so that other load affects both.
  - Only arithmetic runs on the host (`__main__`, `rows`, `figures`); everything timed runs inside the lab (`inside`),
    and the programmed kernel state is read back.  `list_cost` measures API servers, which need no such kernel.
"""
