"""How a component is adapted, one file a method; `registry` has them all."""
