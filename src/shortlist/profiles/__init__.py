"""What is known of a user now: recent history and features. Training writes it into the bundle, events move it on."""

PROFILES_URL = "SHORTLIST_PROFILES"  # environment of an instance: the URL of the store of live profiles; unset: none
PATIENCE_MS = "SHORTLIST_PROFILES_MS"  # the same: how long a batch waits for it; unset: PATIENCE of `live`
PRECOMPUTED = "SHORTLIST_PRECOMPUTED"  # the same: set where slates that lie in that store may answer

FOUND, NONE, FAILED, UNASKED = "found", "none", "failed", "unasked"
OUTCOMES = (FOUND, NONE, FAILED, UNASKED)  # of wanting a live profile; `unasked`: the store failed a moment ago

HIT, ABSENT, BUNDLE, PROFILE, OPTIONS, GONE = "hit", "absent", "bundle", "profile", "options", "gone"
PRECOMPUTED_OUTCOMES = (HIT, ABSENT, BUNDLE, PROFILE, OPTIONS, GONE)  # what came of slates made beforehand
