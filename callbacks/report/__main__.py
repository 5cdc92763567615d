"""Write one page about runs: ``python main.py report RUNS``."""

from __future__ import annotations

from callbacks.report.report import main

if __name__ == "__main__":
    raise SystemExit(main())
