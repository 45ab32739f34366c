import Configuration
import Testing

/// A configuration without a mistake; the tests plant one each.
private let good = """
  memory = "512MiB"                 # everything

  [volume]
  name = "vol0"
  size = "16GiB"
  [listen]
  unix = "/run/thermocline/vol0.sock"
  tcp = "127.0.0.1:10809"
  [log]
  size = "512MiB"
  staging = "/run/thermocline"
  [[tier]]
  name = "fast"
  devices = [{ path = "/dev/nvme0n1" }]
  [[tier]]
  name = "slow"
  devices = [
    { path = "/srv/slow.img", size = "8GiB" },
    { path = "/dev/sdb", rotational = true },
  ]
  """

private func mistakes(of text: String) -> [ConfigurationMistake] {
  do {
    _ = try PoolConfiguration.parse(text, file: "c.toml")
    return []
  } catch {
    return error.mistakes
  }
}

@Suite struct ConfigurationTests {
  @Test func readsEveryKey() throws {
    let c = try PoolConfiguration.parse(good, file: "c.toml")
    #expect(c.memory == 512 << 20)
    #expect(c.volume.name == "vol0")
    #expect(c.volume.size == 16 << 30)
    #expect(c.listen.unix == "/run/thermocline/vol0.sock")
    #expect(c.listen.tcp.first?.description == "127.0.0.1:10809")
    #expect(c.listen.tcp.first?.isVersion6 == false)
    #expect(c.log.size == 512 << 20)
    #expect(c.log.staging == "/run/thermocline")
    #expect(c.tiers.map(\.name) == ["fast", "slow"])
    #expect(c.tiers[1].devices.map(\.path) == ["/srv/slow.img", "/dev/sdb"])
    #expect(c.tiers[1].devices.map(\.size) == [8 << 30, nil])
    #expect(c.devices.map(\.settings.isRotational) == [nil, nil, true])
    #expect(c.devices.map(\.tier) == [0, 1, 1])
    #expect(c.devices.map(\.number) == [0, 0, 1])
  }

  @Test func whoMayUseTheSocketIsRead() throws {
    let text = good.split(separator: "tcp =", maxSplits: 1).joined(
      separator: """
        unix_mode = "0660"
        unix_group = "kvm"
        unix_users = ["root", "64055"]
        tcp =
        """)
    let listen = try PoolConfiguration.parse(text, file: "c.toml").listen
    #expect(listen.unixMode == 0o660)
    #expect(listen.unixGroup == "kvm")
    #expect(listen.unixUsers == ["root", "64055"])
  }

  @Test(arguments: [
    ("unix_mode = \"0777\"", "0777"), ("unix_mode = 660", "the integer 660"),
    ("unix_mode = \"0060\"", "0060"), ("unix_users = []", "an array"),
    ("unix_users = [7]", "an array"), ("unix_group = 7", "the integer 7"),
  ])
  func aWrongOwnerOfTheSocketIsRefused(_ line: String, _ found: String) {
    let text = good.split(separator: "tcp =", maxSplits: 1).joined(separator: line + "\ntcp =")
    #expect(mistakes(of: text).filter { $0.found.contains(found) }.count == 1)
  }

  /// `good` with an address that other machines reach, and more.
  private func reachable(_ listen: String, _ tables: String) -> String {
    good.replacing("tcp = \"127.0.0.1:10809\"", with: "tcp = \"0.0.0.0:10809\"\n" + listen)
      .replacing("[log]", with: tables + "\n[log]")
  }

  @Test func encryptionIsRead() throws {
    let tables = """
      [tls]
      mode = "required"
      certificate = "/c.pem"
      key = "/k.pem"
      authority = "/a.pem"
      clients = ["CN=one", "sha256:00"]
      """
    let c = try PoolConfiguration.parse(reachable("", tables), file: "c.toml")
    #expect(c.tls?.mode == .required)
    #expect(c.tls?.certificate == "/c.pem")
    #expect(c.tls?.clients == ["CN=one", "sha256:00"])
    #expect(c.listen.tcp.first?.isLoopback == false)
    #expect(try PoolConfiguration.parse(good, file: "c.toml").tls == nil)
  }

  @Test func plaintextBeyondThisMachineIsAskedFor() throws {
    #expect(mistakes(of: reachable("", "")).map(\.key) == ["listen.tcp"])
    let allowed = "[tls]\nmode = \"allowed\"\nshared_keys = \"/k\""
    #expect(mistakes(of: reachable("", allowed)).map(\.key) == ["listen.tcp"])
    #expect(mistakes(of: reachable("allow_plaintext = true", "")) == [])
  }

  @Test(arguments: [
    ("mode = \"on\"", "tls.mode", "required"), ("", "tls.mode", "off"),
    ("mode = \"allowed\"", "tls", "shared_keys"),
    ("mode = \"off\"\nkey = \"/k\"", "tls.key", "tls.certificate"),
    ("mode = \"off\"\ncertificate = \"/k\"", "tls.certificate", "tls.key"),
    ("mode = \"off\"\nauthority = \"/k\"", "tls.authority", "tls.certificate"),
    ("mode = \"off\"\nshared_keys = \"k\"", "tls.shared_keys", "absolute"),
    ("mode = \"off\"\nclients = [\"CN=a\"]", "tls.clients", "tls.authority"),
    ("mode = \"off\"\nclients = []", "tls.clients", "an array"),
  ])
  func wrongEncryptionIsRefused(_ lines: String, _ key: String, _ expected: String) {
    let text = good.replacing("[log]", with: "[tls]\n\(lines)\n[log]")
    #expect(
      mistakes(of: text).contains { $0.key == key && $0.expected.contains(expected) },
      "\(mistakes(of: text))")
  }

  @Test func limitsAreRead() throws {
    let text = good.split(separator: "[log]", maxSplits: 1).joined(
      separator: "[limits]\nconnections = 3\nhandshake_seconds = 2\npayload = \"1MiB\"\n[log]")
    let limits = try PoolConfiguration.parse(text, file: "c.toml").limits
    #expect(limits.connections == 3)
    #expect(limits.handshakeSeconds == 2)
    #expect(limits.payload == 1 << 20)
    #expect(limits.options == nil)
  }

  @Test(arguments: [
    ("connections = 0", "1 to 1024", "the integer 0"),
    ("connections = \"many\"", "1 to 1024", "\"many\""),
    ("meta_contexts = 17", "1 to 16", "the integer 17"),
    ("payload = \"4KiB\"", "at least 1MiB", "\"4KiB\""),
    ("option_data = \"1MiB\"", "at most 64KiB", "1MiB"),
    ("conections = 3", "one of the keys", "conections"),
  ])
  func aLimitOutOfRangeIsRefused(_ line: String, _ expected: String, _ found: String) {
    let text = good.split(separator: "[log]", maxSplits: 1).joined(
      separator: "[limits]\n\(line)\n[log]")
    let found = mistakes(of: text).filter {
      $0.expected.contains(expected) && $0.found.contains(found)
    }
    #expect(found.count == 1)
    #expect(found.first?.line == 10)
  }

  @Test func placedWritesCanBeSwitchedOff() throws {
    let text = good.split(separator: "[log]", maxSplits: 1).joined(
      separator: "[log]\nplaced_writes = false")
    #expect(try !PoolConfiguration.parse(text, file: "c.toml").log.placedWrites)
  }

  @Test func takesTheLogAndOneListenerAsOptional() throws {
    let text = """
      memory = "256MiB"
      volume = { name = "a", size = "1TiB", read_only = true }
      limits = { client_memory = "16MiB" }
      listen = { tcp = ["[::1]:1", "127.0.0.1:2"], vsock = 10809, unix_owner = "root" }
      [[tier]]
      name = "only"
      devices = [{ path = "/dev/sda" }]
      """
    let c = try PoolConfiguration.parse(text, file: "c.toml")
    #expect(c.log.size == nil && c.log.staging == nil && c.log.placedWrites)
    #expect(c.listen.unix == nil)
    #expect(c.listen.tcp.map(\.description) == ["[::1]:1", "127.0.0.1:2"])
    #expect(c.listen.vsock == 10809 && c.listen.unixOwner == "root")
    #expect(c.volume.isReadOnly && c.limits.clientMemory == 16 << 20)
    #expect(c.listen.tcp.first?.host == "::1")
  }

  /// One planted mistake each: what is replaced, by what, then line, key, and a part of what is
  /// expected and found.
  @Test(arguments: [
    ("memory = \"512MiB\"", "memory = 512", 1, "memory", "a size in KiB", "the integer 512"),
    ("memory = \"512MiB\"", "memory = \"512MB\"", 1, "memory", "a size in KiB", "512MB"),
    ("memory = \"512MiB\"", "memory = \"64MiB\"", 1, "memory", "at least 192MiB", "64MiB"),
    ("memory = \"512MiB\"", "memory = \"9999999999TiB\"", 1, "memory", "below", "9999999999TiB"),
    ("memory = \"512MiB\"", "memory = \"-1GiB\"", 1, "memory", "a size", "-1GiB"),
    ("memory = \"512MiB\"", "memory = \"1.5GiB\"", 1, "memory", "a size", "1.5GiB"),
    ("memory = \"512MiB\"", "", 1, "memory", "a size", "nothing"),
    ("memory", "memry = 1\nmemory", 1, "memry", "memory, volume", "unknown key \"memry\""),
    ("size = \"16GiB\"", "sise = \"16GiB\"", 5, "volume.sise", "name, size", "sise"),
    ("size = \"16GiB\"", "size = \"1025KiB\"", 5, "volume.size", "a multiple of 4KiB", "1025KiB"),
    ("size = \"16GiB\"", "size = \"512KiB\"", 5, "volume.size", "at least 1MiB", "512KiB"),
    ("name = \"vol0\"", "name = \"a b\"", 4, "volume.name", "a name", "a b"),
    ("name = \"vol0\"", "name = \"\"", 4, "volume.name", "a name", "\"\""),
    ("name = \"vol0\"", "name = [1]", 4, "volume.name", "a string", "an array"),
    ("name = \"vol0\"", "", 3, "volume.name", "a name", "nothing"),
    ("[volume]", "[volum]", 1, "volume", "a table [volume]", "none"),
    ("[listen]", "[[listen]]", 6, "listen", "a table [listen]", "an array"),
    ("unix = \"/run", "unix = \"run", 7, "listen.unix", "an absolute path", "run/"),
    ("127.0.0.1:10809", "127.0.0.1", 8, "listen.tcp", "an address in numbers", "127.0.0.1"),
    ("127.0.0.1:10809", "127.0.0.1:0", 8, "listen.tcp", "an address in numbers", ":0"),
    ("127.0.0.1:10809", "127.0.0.1:+10809", 8, "listen.tcp", "an address in numbers", ":+10809"),
    ("127.0.0.1:10809", "10.0.0.1:10809", 8, "listen.tcp", "loopback", "other machines"),
    ("127.0.0.1:10809", "[::]:10809", 8, "listen.tcp", "loopback", "other machines"),
    ("tcp = \"127.0.0.1:10809\"", "tcp = true", 8, "listen.tcp", "a string", "truth value"),
    ("tcp = \"127.0.0.1:10809\"", "tcp = [1]", 8, "listen.tcp", "an array of addresses", "array"),
    ("\"127.0.0.1:10809\"", "[\"127.0.0.1:1\", \"*:1\"]", 8, "listen.tcp", "loopback", "*:1"),
    ("tcp = \"127.0.0.1:10809\"", "vsock = 0", 8, "listen.vsock", "a whole number", "integer"),
    ("size = \"512MiB\"", "size = \"1MiB\"", 10, "log.size", "at least 128MiB", "1MiB"),
    ("size = \"512MiB\"", "size = \"13GiB\"", 10, "log.size", "at most 24 times", "13GiB"),
    ("staging = \"/run", "stage = \"/run", 11, "log.stage", "size, staging", "stage"),
    ("staging =", "placed_writes = 1\nstaging =", 11, "log.placed_writes", "true", "integer 1"),
    ("\"fast\"", "\"a-name-of-sixteen\"", 13, "tier[0].name", "1 to 15", "a-name-of-sixteen"),
    ("name = \"fast\"", "name = 7", 13, "tier[0].name", "a string", "the integer 7"),
    ("name = \"slow\"", "name = \"fast\"", 16, "tier[1].name", "of its own", "tier[0].name"),
    ("[{ path = \"/dev/nvme0n1\" }]", "[]", 14, "tier[0].devices", "at least one", "empty"),
    ("[{ path = \"/dev/nvme0n1\" }]", "\"/dev/a\"", 14, "tier[0].devices", "an array", "/dev/a"),
    ("{ path = \"/dev/nvme0n1\" }", "3", 14, "tier[0].devices[0]", "a device", "integer 3"),
    ("path = \"/dev/sdb\", ", "", 19, "tier[1].devices[1].path", "the path", "nothing"),
    ("/dev/sdb", "sdb", 19, "tier[1].devices[1].path", "absolute", "sdb"),
    ("/dev/sdb", "/dev/nvme0n1", 19, "tier[1].devices[1].path", "once", "tier[0].devices[0].path"),
    ("\"8GiB\"", "8", 18, "tier[1].devices[0].size", "a size", "the integer 8"),
    ("\"8GiB\"", "\"8MiB\"", 18, "tier[1].devices[0].size", "at least 16MiB", "8MiB"),
    ("size = \"8GiB\"", "sise = \"8GiB\"", 18, "tier[1].devices[0].sise", "path, size", "sise"),
    ("= true", "= 1", 19, "tier[1].devices[1].rotational", "true or false", "the integer 1"),
  ] as [(String, String, Int, String, String, String)])
  func refuses(
    part: String, by planted: String, line: Int, key: String, expected: String, found: String
  ) throws {
    let range = try #require(good.firstRange(of: part))
    let found_ = mistakes(of: good.replacingCharacters(range, by: planted))
    let mistake = try #require(found_.first { $0.key == key }, "\(found_)")
    #expect(mistake.file == "c.toml")
    #expect(mistake.line == line)
    #expect(mistake.expected.contains(expected), "\(mistake)")
    #expect(mistake.found.contains(found), "\(mistake)")
  }

  @Test func refusesNoTierAndTooManyTiers() throws {
    let head = String(good[..<(try #require(good.firstRange(of: "[[tier]]")).lowerBound)])
    #expect(mistakes(of: head).map(\.key) == ["tier"])
    func tiers(_ count: Int) -> String {
      let tables = (0..<count).map {
        "[[tier]]\nname = \"t\($0)\"\ndevices = [{path = \"/dev/d\($0)\"}]\n"
      }
      return head + tables.joined()
    }
    #expect(mistakes(of: tiers(8)).isEmpty)
    let mistake = try #require(mistakes(of: tiers(9)).first)
    let want = "c.toml:12: tier: expected one to eight [[tier]] tables, found 9"
    #expect(mistake.description == want)
  }

  @Test func refusesWithoutAListener() throws {
    let text = good.replacingOccurrences(of: "unix =", by: "#").replacingOccurrences(
      of: "tcp =", by: "#")
    #expect(mistakes(of: text).map(\.key) == ["listen"])
  }

  @Test func namesTheLineOfASyntaxMistake() throws {
    let mistake = try #require(mistakes(of: good + "\n[volume]\n").first)
    #expect(mistake.line == 21)
    #expect(mistake.expected == "TOML")
    #expect(mistakes(of: "a = ").first?.line == 1)
  }

  @Test func reportsAllMistakesInOrder() {
    let text = good.replacingOccurrences(of: "MiB\"", by: "MB\"")
      .replacingOccurrences(of: "path =", by: "device =")
    #expect(
      mistakes(of: text).map(\.line) == [1, 10, 14, 14, 18, 18, 19, 19])
  }

  @Test func refusesFilesThatAreNoText() throws {
    #expect(throws: ConfigurationError.self) {
      try PoolConfiguration.read(file: "/nonexistent/thermocline.toml")
    }
    #expect(throws: ConfigurationError.self) { try PoolConfiguration.read(file: "/") }
    #expect(throws: ConfigurationError.self) { try PoolConfiguration.read(file: "/dev/zero") }
  }

  @Test func boundsTheDefaultLog() {
    func size(_ tier: UInt64, _ memory: UInt64) -> UInt64 {
      LogSettings.defaultSize(firstTierBytes: tier, memory: memory, segment: 8 << 20)
    }
    #expect(size(2 << 30, 512 << 20) == 256 << 20)
    #expect(size(1 << 40, 512 << 20) == 8 << 30)
    #expect(size(1 << 40, 192 << 20) == 4608 << 20)
    #expect(size(64 << 20, 192 << 20) == 128 << 20)
    #expect(size(2_000_000_000, 192 << 20) % (8 << 20) == 0)
  }
}

extension String {
  fileprivate func replacingCharacters(_ range: Range<String.Index>, by text: String) -> String {
    self[..<range.lowerBound] + text + self[range.upperBound...]
  }

  fileprivate func replacingOccurrences(of part: String, by text: String) -> String {
    var result = ""
    var rest = self[...]
    while let range = rest.firstRange(of: part) {
      result += rest[..<range.lowerBound] + text
      rest = rest[range.upperBound...]
    }
    return result + rest
  }
}
