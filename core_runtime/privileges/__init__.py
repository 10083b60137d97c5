"""Operations that the host performs for a Pack, one small file each; each registers itself in ``TABLE`` on import."""
