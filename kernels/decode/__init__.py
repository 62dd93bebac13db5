"""Operations of one decode step between its matrix products: attention over slots, scaled norms, the gated activation."""
