"""What people do, on its way to their profiles: the schema of an event, its transports, and the report of its quality.

`consumer` turns events into profiles; the state of a profile is `shortlist.profiles`, the way in for browsers is
`shortlist.gateway`.
"""
