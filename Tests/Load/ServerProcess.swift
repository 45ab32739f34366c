import Glibc

/// The server under test as a child process.
struct ServerProcess {
  let pid: pid_t

  /// Starts `command`, its output appended to the file `log`.
  init(_ command: [String], log: String) throws(LoadError) {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    var arguments = command.map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    var pid: pid_t = 0
    let error = posix_spawnp(&pid, command[0], &actions, nil, arguments, environ)
    guard error == 0 else {
      throw LoadError("cannot start \(command[0]): \(String(cString: strerror(error)))")
    }
    self.pid = pid
  }

  /// False once the process has ended by itself.
  var isAlive: Bool {
    var status: CInt = 0
    return waitpid(pid, &status, WNOHANG) == 0
  }

  /// Ends it at once, as a crash does.
  func killAndWait() {
    kill(pid, SIGKILL)
    var status: CInt = 0
    waitpid(pid, &status, 0)
  }

  /// Asks it to stop; false when it did not within `seconds`, or did so with an error.
  func stop(seconds: Double) -> Bool {
    kill(pid, SIGTERM)
    let deadline = Clock.seconds() + seconds
    var status: CInt = 0
    while Clock.seconds() < deadline {
      if waitpid(pid, &status, WNOHANG) == pid { return status == 0 }
      usleep(5000)
    }
    killAndWait()
    return false
  }
}
