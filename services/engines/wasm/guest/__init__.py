"""What runs inside the sandbox: one Python component that loads any function. `toolchain` builds it."""
