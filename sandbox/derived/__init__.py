"""Labs that have some packages more than the lab: built beside it by the platform, before anything runs in them."""
