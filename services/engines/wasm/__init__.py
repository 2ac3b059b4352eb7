"""The wasm engine: functions as WebAssembly, each instance in a worker process of its own."""
