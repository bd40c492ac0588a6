"""Write the golden files (``python -m tests.wire.regenerate``); read the diff before committing it."""

from pathlib import Path

from tests.wire.annotate import annotate
from tests.wire.messages import FILES, Sample

FOLDER = Path(__file__).parent / "golden"


def render(samples: list[Sample]) -> str:
    """Return one golden file: the title of each message, then its annotated bytes (little-endian host)."""
    return "\n".join(_render(sample) for sample in samples)


def _render(sample: Sample) -> str:
    lines = annotate(sample.body, sample.fixed_size, sample.names)
    return "".join(f"{line}\n" for line in (f"# {sample.title}", *lines))


def main() -> None:
    """Write every file."""
    for name, samples in FILES.items():
        (FOLDER / f"{name}.txt").write_text(render(samples))


if __name__ == "__main__":
    main()
