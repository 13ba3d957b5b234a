"""Groups from one interface of this host to others: what is forwarded, and who wants it."""
