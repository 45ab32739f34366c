import TOMLKit

extension ConfigurationReader {
  /// `[limits]`: all of its keys are optional.
  func readLimits(_ root: TOMLTable) -> LimitSettings {
    var limits = LimitSettings()
    guard let table = table(in: root, "limits", isRequired: false) else { return limits }
    checkKeys(
      of: table, at: "limits",
      allowed: [
        "handshake_seconds", "connections_in_handshake", "connections", "options", "option_data",
        "string_bytes", "meta_queries", "meta_contexts", "requests_in_flight", "bytes_in_flight",
        "payload", "send_seconds", "client_memory",
        "stop_seconds",
      ])
    func number(_ key: String, _ range: ClosedRange<Int>) -> Int? {
      count(in: table, key, at: "limits", range)
    }
    func bytes(_ key: String, _ range: ClosedRange<UInt64>) -> Int? {
      guard table[key] != nil,
        let bytes = size(
          in: table, key, at: "limits", least: range.lowerBound, example: "64MiB")
      else { return nil }
      if bytes > range.upperBound {
        note("limits.\(key)", "at most \(SizeText.exact(range.upperBound))", SizeText.exact(bytes))
      }
      return Int(clamping: bytes)
    }
    limits.handshakeSeconds = number("handshake_seconds", 1...3600)
    limits.connectionsInHandshake = number("connections_in_handshake", 1...1024)
    limits.connections = number("connections", 1...1024)
    limits.options = number("options", 4...65_536)
    limits.optionData = bytes("option_data", 8192...65_536)
    limits.stringBytes = number("string_bytes", 64...4096)
    limits.metaQueries = number("meta_queries", 1...4096)
    limits.metaContexts = number("meta_contexts", 1...16)
    limits.requestsInFlight = number("requests_in_flight", 1...1024)
    limits.bytesInFlight = bytes("bytes_in_flight", 1 << 20...1 << 30)
    limits.payload = bytes("payload", 1 << 20...1 << 30)
    limits.sendSeconds = number("send_seconds", 1...86_400)
    limits.stopSeconds = number("stop_seconds", 1...86_400)
    limits.clientMemory = bytes("client_memory", 8 << 20...1 << 34)
    return limits
  }

  /// The whole number at `key` of a table, or nil when there is none (which is no mistake).
  func count(
    in table: TOMLTable, _ key: String, at path: String, _ range: ClosedRange<Int>
  ) -> Int? {
    guard let value = table[key] else { return nil }
    guard let number = value.int, range.contains(number) else {
      note(
        "\(path).\(key)", "a whole number from \(range.lowerBound) to \(range.upperBound)",
        kind(value))
      return nil
    }
    return number
  }
}

extension ConfigurationReader {
  /// Who may use the unix socket.
  func readUnix(_ table: TOMLTable, into listen: inout ListenSettings) {
    if let text = string(in: table, "unix_mode", at: "listen", example: "0660") {
      let mode = UInt32(text, radix: 8)
      if let mode, mode & ~0o666 == 0, mode & 0o600 == 0o600 {
        listen.unixMode = mode
      } else {
        note(
          "listen.unix_mode", "octal permissions such as \"0660\", for reading and writing, the "
            + "owner's included", quoted(text))
      }
    }
    listen.unixOwner = string(in: table, "unix_owner", at: "listen", example: "libvirt-qemu")
    listen.unixGroup = string(in: table, "unix_group", at: "listen", example: "disk")
    listen.unixUsers = strings(
      in: table, "unix_users", at: "listen",
      form: "an array of users, names or numbers, such as [\"root\", \"libvirt-qemu\"]")
  }
}
