"""etcd: values, the client, the watch; later the keys and what is kept under them."""
