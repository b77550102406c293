"""The oracle: random histories on the real system, compared with what the source's ORM says.

`tables` says what can be written, `invent` draws a history from a seed, `play` plays it on real
daemons and databases, `witness` watches the target meanwhile, `judge` compares. A history is plain
data: a failing one is stored as JSON and plays again as it is, without its seed.
"""
