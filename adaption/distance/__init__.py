"""How far apart two domains are, and how sure that is."""
