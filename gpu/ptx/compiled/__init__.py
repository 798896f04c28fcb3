"""The second engine: PTX translated to LLVM IR, a warp at a time. It shares the parser with the first, no arithmetic."""
