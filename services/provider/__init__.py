"""Who runs which manifest, and with what: signed announcements, kept over restarts and found through the DHT."""
