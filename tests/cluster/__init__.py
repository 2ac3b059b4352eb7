"""A node made of containers, met from outside: by reflection, and by a client that has the .proto files alone."""
