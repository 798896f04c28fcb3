"""How inputs are damaged: bytes of any kind, and the forms that readers look into."""
