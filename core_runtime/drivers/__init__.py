"""How: every syscall of the kernel. Each driver implements one Protocol of ``core_runtime.ports``."""
