"""The local stack: a real Apache Kafka broker, a real Triton server and workers as supervised child processes.

From bottom to top:

* `cache`, `kafka_jars`, `triton_wheel`, `components`: download the servers and verify their files.
* `process`, `guardian`, `ports`: run one child process that cannot outlive its parent.
* `server`, `kafka`, `triton`, `worker`: one kind of server each, on the common base class `ManagedServer`.
* `supervised`: watches one server and restarts it.
* `status`, `worker_records`: small files that tell other processes what runs here.
* `stack`: starts, watches and stops everything together; `foreground` is `sagelift up`.
"""
