import DiskFormat
import Glibc
import TOMLKit

extension PoolConfiguration {
  /// Reads the file at `path`.
  package static func read(file path: String) throws(ConfigurationError) -> PoolConfiguration {
    func refused(_ found: String) -> ConfigurationError {
      ConfigurationError(mistakes: [
        ConfigurationMistake(
          file: path, line: nil, key: "", expected: "a readable configuration file", found: found)
      ])
    }
    guard let stream = fopen(path, "re") else {
      let reason = String(cString: strerror(errno))
      throw refused(reason + "; --config names it, Config/thermocline.example.toml shows one")
    }
    defer { fclose(stream) }
    // One mebibyte is a thousand times what a configuration takes.
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    let count = fread(&bytes, 1, bytes.count, stream)
    guard ferror(stream) == 0 else { throw refused(String(cString: strerror(errno))) }
    guard count < bytes.count else { throw refused("a file of a mebibyte or more") }
    guard let text = String(validating: bytes[..<count], as: UTF8.self), !text.utf8.contains(0)
    else { throw refused("bytes that are not text in UTF-8") }
    return try parse(text, file: path)
  }

  /// Reads a text; `file` is named in mistakes.
  package static func parse(
    _ text: String, file: String
  ) throws(ConfigurationError) -> PoolConfiguration {
    let lines = KeyLines(of: text)
    if let line = lines.gap {
      throw ConfigurationError(mistakes: [
        ConfigurationMistake(
          file: file, line: line, key: "", expected: "TOML",
          found: "something that is neither a key nor a value")
      ])
    }
    let root: TOMLTable
    do {
      root = try TOMLTable(string: text)
    } catch {
      throw ConfigurationError(mistakes: [syntaxMistake(error, file: file)])
    }
    let reader = ConfigurationReader(file: file, lines: lines)
    let configuration = withExtendedLifetime(root) { reader.read(root) }
    guard reader.mistakes.isEmpty, let configuration else {
      throw ConfigurationError(
        mistakes: reader.mistakes.sorted { ($0.line ?? 0, $0.key) < ($1.line ?? 0, $1.key) })
    }
    return configuration
  }

  private static func syntaxMistake(_ error: any Error, file: String) -> ConfigurationMistake {
    guard let error = error as? TOMLParseError else {
      return ConfigurationMistake(
        file: file, line: nil, key: "", expected: "TOML", found: "\(error)")
    }
    return ConfigurationMistake(
      file: file, line: error.source.begin.line, key: "", expected: "TOML",
      found: "a mistake at column \(error.source.begin.column): \(error.description)")
  }
}

/// Reads the tables one by one and collects what is wrong. Where a value is missing or wrong, a
/// placeholder stands in until the end, so that the rest is read as well.
final class ConfigurationReader {
  let file: String
  let lines: KeyLines
  private(set) var mistakes: [ConfigurationMistake] = []

  init(file: String, lines: KeyLines) {
    self.file = file
    self.lines = lines
  }

  func read(_ root: TOMLTable) -> PoolConfiguration? {
    checkKeys(
      of: root, at: "",
      allowed: ["memory", "volume", "listen", "tls", "log", "limits", "tier"])
    let memory = size(
      in: root, "memory", at: "", least: ConfigurationLimits.minimumMemory, example: "512MiB")
    let volume = readVolume(root)
    let tls = readTLS(root)
    let listen = readListen(root, isEncrypted: tls?.mode == .required)
    let log = readLog(root, memory: memory)
    let limits = readLimits(root)
    let tiers = readTiers(root)
    guard mistakes.isEmpty, let memory, let volume, let listen else { return nil }
    return PoolConfiguration(
      file: file, memory: memory, volume: volume, listen: listen, tls: tls, log: log,
      limits: limits, tiers: tiers, lines: lines)
  }

  func note(_ key: String, _ expected: String, _ found: String) {
    mistakes.append(
      ConfigurationMistake(
        file: file, line: lines.line(of: key), key: key, expected: expected, found: found))
  }

  // MARK: The tables

  private func readVolume(_ root: TOMLTable) -> VolumeSettings? {
    guard let table = table(in: root, "volume", isRequired: true) else { return nil }
    checkKeys(of: table, at: "volume", allowed: ["name", "size", "read_only"])
    let name = name(
      in: table, at: "volume", most: ConfigurationLimits.volumeNameBytes, example: "vol0")
    let size = size(
      in: table, "size", at: "volume", least: ConfigurationLimits.minimumVolume, example: "16GiB")
    if let size, size > ConfigurationLimits.maximumVolume {
      note(
        "volume.size", "at most \(SizeText.exact(ConfigurationLimits.maximumVolume))",
        SizeText.exact(size))
    }
    guard let name, let size else { return nil }
    return VolumeSettings(
      name: name, size: size, isReadOnly: truth(in: table, "read_only", at: "volume") ?? false)
  }

  private func readListen(_ root: TOMLTable, isEncrypted: Bool) -> ListenSettings? {
    guard let table = table(in: root, "listen", isRequired: true) else { return nil }
    checkKeys(
      of: table, at: "listen",
      allowed: [
        "unix", "unix_mode", "unix_owner", "unix_group", "unix_users", "tcp", "vsock",
        "allow_plaintext",
      ])
    let before = mistakes.count
    var listen = ListenSettings()
    if let path = path(in: table, "unix", at: "listen", example: "/run/thermocline/vol0.sock") {
      if path.utf8.count > ConfigurationLimits.socketPathBytes {
        note(
          "listen.unix", "a path of at most \(ConfigurationLimits.socketPathBytes) bytes",
          "\(path.utf8.count) bytes")
      }
      listen.unix = path
    }
    readUnix(table, into: &listen)
    listen.tcp = readAddresses(table)
    listen.vsock = count(in: table, "vsock", at: "listen", 1...0xffff_fffe).map { UInt32($0) }
    listen.allowsPlaintext = truth(in: table, "allow_plaintext", at: "listen") ?? false
    for tcp in listen.tcp where !tcp.isLoopback && !isEncrypted && !listen.allowsPlaintext {
      note(
        "listen.tcp", "a loopback address, or tls.mode = \"required\", or, where the network is "
          + "trusted, allow_plaintext = true",
        quoted("\(tcp)") + ", which other machines reach without encryption")
    }
    if mistakes.count == before, listen.unix == nil, listen.tcp.isEmpty, listen.vsock == nil {
      note("listen", "a unix socket (unix), addresses (tcp), a port of vsock, or several", "none")
    }
    return listen
  }

  /// One address, or a list of them.
  private func readAddresses(_ table: TOMLTable) -> [TCPAddress] {
    if table["tcp"]?.array != nil {
      let list = strings(
        in: table, "tcp", at: "listen",
        form: "an array of addresses such as [\"127.0.0.1:10809\", \"[::1]:10809\"]")
      return (list ?? []).compactMap(readAddress)
    }
    return string(in: table, "tcp", at: "listen", example: "127.0.0.1:10809")
      .flatMap(readAddress).map { [$0] } ?? []
  }

  private func readAddress(_ text: String) -> TCPAddress? {
    let form = "an address in numbers and a port such as \"127.0.0.1:10809\", \"[::1]:10809\" or, "
      + "for all, \"*:10809\""
    guard let colon = text.lastIndex(of: ":"),
      text[text.index(after: colon)...].utf8.allSatisfy({ (48...57).contains($0) }),
      let port = UInt16(text[text.index(after: colon)...]), port > 0
    else {
      note("listen.tcp", form, quoted(text))
      return nil
    }
    var host = String(text[..<colon])
    if host == "localhost" { host = "127.0.0.1" }
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    var four = in_addr()
    var six = in6_addr()
    let isNumeric =
      inet_pton(AF_INET, host, &four) == 1 || inet_pton(AF_INET6, host, &six) == 1
    if host == "*" || isNumeric {
      return TCPAddress(host: host, port: port)
    }
    note("listen.tcp", form, quoted(text))
    return nil
  }

  private func readLog(_ root: TOMLTable, memory: UInt64?) -> LogSettings {
    var log = LogSettings()
    guard let table = table(in: root, "log", isRequired: false) else { return log }
    checkKeys(of: table, at: "log", allowed: ["size", "staging", "placed_writes"])
    if table["size"] != nil {
      log.size = size(
        in: table, "size", at: "log", least: ConfigurationLimits.minimumLog, example: "512MiB")
    }
    if let size = log.size, let memory, size / ConfigurationLimits.logPerMemory > memory {
      let most = SizeText.exact(memory * ConfigurationLimits.logPerMemory)
      note(
        "log.size", "at most \(ConfigurationLimits.logPerMemory) times the memory, \(most)",
        SizeText.exact(size))
    }
    log.staging = path(in: table, "staging", at: "log", example: "/run/thermocline")
    log.placedWrites = truth(in: table, "placed_writes", at: "log") ?? true
    return log
  }

  private func readTiers(_ root: TOMLTable) -> [TierSettings] {
    guard let value = root["tier"] else {
      note("tier", "one to eight [[tier]] tables, the fastest first", "none")
      return []
    }
    guard let array = value.array, array.allSatisfy({ $0.table != nil }) else {
      note("tier", "[[tier]] tables", kind(value))
      return []
    }
    if array.isEmpty || array.count > ConfigurationLimits.tiers {
      note("tier", "one to eight [[tier]] tables", "\(array.count)")
    }
    let tiers = (0..<array.count).compactMap { index in
      array[index].table.map { readTier($0, at: "tier[\(index)]") }
    }
    checkDistinct(tiers)
    return tiers
  }

  private func readTier(_ table: TOMLTable, at path: String) -> TierSettings {
    checkKeys(of: table, at: path, allowed: ["name", "devices"])
    let name = name(
      in: table, at: path, most: ConfigurationLimits.tierNameBytes, example: "fast")
    var tier = TierSettings(name: name ?? "", devices: [])
    let key = "\(path).devices"
    let form = "an array of devices such as [{ path = \"/dev/nvme0n1\" }]"
    guard let value = table["devices"] else {
      note(key, form, "nothing")
      return tier
    }
    guard let array = value.array else {
      note(key, form, kind(value))
      return tier
    }
    if array.isEmpty { note(key, "at least one device", "an empty array") }
    for index in 0..<array.count {
      guard let device = array[index].table else {
        note("\(key)[\(index)]", "a device such as { path = \"/dev/sdb\" }", kind(array[index]))
        continue
      }
      tier.devices.append(readDevice(device, at: "\(key)[\(index)]"))
    }
    return tier
  }

  private func readDevice(_ table: TOMLTable, at key: String) -> DeviceSettings {
    checkKeys(of: table, at: key, allowed: ["path", "size", "rotational"])
    var device = DeviceSettings(path: "")
    if table["path"] == nil {
      note("\(key).path", "the path of a block device or a regular file", "nothing")
    } else if let path = path(in: table, "path", at: key, example: "/dev/nvme0n1") {
      device.path = path
    }
    if table["size"] != nil {
      device.size = size(
        in: table, "size", at: key, least: ConfigurationLimits.minimumDevice, example: "8GiB")
    }
    device.isRotational = truth(in: table, "rotational", at: key)
    return device
  }

  /// Names and paths that occur twice, and more devices than a pool can count.
  private func checkDistinct(_ tiers: [TierSettings]) {
    var names: [String: String] = [:]
    var paths: [String: String] = [:]
    var count = 0
    for (index, tier) in tiers.enumerated() {
      let key = "tier[\(index)].name"
      if !tier.name.isEmpty, let first = names.updateValue(key, forKey: tier.name) {
        note(key, "a name of its own", "\(quoted(tier.name)), the name of \(first)")
      }
      for (number, device) in tier.devices.enumerated() where !device.path.isEmpty {
        let key = PoolConfiguration.deviceKey(tier: index, number: number) + ".path"
        count += 1
        if let first = paths.updateValue(key, forKey: device.path) {
          note(key, "every device once", "\(quoted(device.path)), already \(first)")
        }
      }
    }
    if count > ConfigurationLimits.devices {
      note("tier", "at most \(ConfigurationLimits.devices) devices", "\(count)")
    }
  }
}
