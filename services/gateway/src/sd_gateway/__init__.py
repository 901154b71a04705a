"""REST and websocket gateway: takes tasks from clients, tells them what becomes of those."""
