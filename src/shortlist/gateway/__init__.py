"""The way in for browsers and everything that speaks HTTP: REST, WebSocket, the tracker and a live page.

It bounds, names and limits what comes in, and hands it on: requests to Triton over gRPC, events to the log. Ranking is
the server's business, profiles are the consumer's. `create_app` makes the application, `serve`
and `running` run it.
"""
