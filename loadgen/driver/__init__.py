"""The gevent cage: Locust and our client, run only as a subprocess. Nothing outside may import locust or gevent."""
