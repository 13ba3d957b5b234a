"""The worker of a link between sites; the links themselves are in tunnel/link/."""
