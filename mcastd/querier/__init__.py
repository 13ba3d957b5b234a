"""What the members of one network want, and the queries that ask them: the router's side of IGMP and MLD.

Pure: messages and ``now`` in, queries and filters out. RFC 3376 section 6, RFC 3810 section 7.
"""
