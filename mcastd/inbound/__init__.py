"""From the network to files and pipes: a subscription receives batches and gives each to its sinks."""
