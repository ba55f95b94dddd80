"""What a run is asked to do: scenarios, arrivals, traces, plans and requests. It opens no sockets."""
