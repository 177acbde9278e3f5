"""Which plan is fastest on this machine and still right: trials in fresh processes, comparisons, proofs, a decision."""
