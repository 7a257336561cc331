"""The parts of `benchmarks/faults.py`: tasks, faults, runs, rivals, and what is measured."""
