"""What comes back: scanners of replies, the verdict on each, and the rows they become. It knows no gevent."""
