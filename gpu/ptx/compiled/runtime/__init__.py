"""What the generated code calls: arithmetic that LLVM has no instruction for, memory, collectives, the runner of blocks."""
