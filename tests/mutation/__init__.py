"""Mutation testing of ``core_runtime/rules``: small faults are put in one by one, and some test must fail for each."""
