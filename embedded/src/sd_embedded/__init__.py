"""The whole service in one command: nats-server and an S3 server as child processes, every service in one process."""
