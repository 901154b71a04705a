"""How a model comes to the device: found, downloaded, read, moved there and kept, or dropped for another."""
