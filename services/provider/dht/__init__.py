"""The node on `kademlia`: its UDP protocol, and the doors through which records come in and go out."""
