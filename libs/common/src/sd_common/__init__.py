"""The contract between the services: messages, subjects, streams, task log, puller and blob store."""
