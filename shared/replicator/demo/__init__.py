"""`replicator demo`: two environments on one machine, and a story told with the real daemons.

command        starts everything, tells the story, stops everything
processes      Postgres' databases and the daemons as child processes
log            whether the log can be used, and its removal
story          what is done in the source, and what must be seen in the target
watch          waits until the target shows it, and compares both sides in the end
screen         what a person reads
environments   the settings of the two environments (and of docker-compose.yml)
polls          the project: an app as its users would write it
"""
