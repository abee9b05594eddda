"""The images of the Docker adapter, built on this machine from its distribution's packages and the lab."""
