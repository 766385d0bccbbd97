"""The PostgreSQL side of the plugin: connections, tables, and the saver on top of them."""
