import TOMLKit

extension ConfigurationReader {
  /// `[tls]`. Without the table there is no encryption.
  func readTLS(_ root: TOMLTable) -> TLSSettings? {
    guard let table = table(in: root, "tls", isRequired: false) else { return nil }
    checkKeys(
      of: table, at: "tls",
      allowed: [
        "mode", "certificate", "key", "authority", "revoked", "clients", "shared_keys",
      ])
    func file(_ key: String) -> String? {
      path(in: table, key, at: "tls", example: "/etc/thermocline/\(key).pem")
    }
    var tls = TLSSettings()
    let form = "\"off\", \"allowed\" or \"required\""
    if table["mode"] == nil { note("tls.mode", form, "nothing") }
    if let text = string(in: table, "mode", at: "tls", example: "required") {
      if let mode = TLSSettings.Mode(rawValue: text) {
        tls.mode = mode
      } else {
        note("tls.mode", form, quoted(text))
      }
    }
    tls.certificate = file("certificate")
    tls.key = file("key")
    tls.authority = file("authority")
    tls.revoked = file("revoked")
    tls.sharedKeys = file("shared_keys")
    tls.clients = strings(
      in: table, "clients", at: "tls",
      form: "an array of clients' names such as [\"CN=host1\", \"sha256:1f…\", \"alice\"]")
    checkTogether(table, tls)
    return tls
  }

  /// Keys that mean nothing without each other.
  private func checkTogether(_ table: TOMLTable, _ tls: TLSSettings) {
    for (one, other) in [
      ("certificate", "key"), ("key", "certificate"), ("authority", "certificate"),
      ("revoked", "authority"),
    ] where table[one] != nil && table[other] == nil {
      note("tls.\(one)", "tls.\(other) with it", "no tls.\(other)")
    }
    if tls.mode != .off, table["certificate"] == nil, table["shared_keys"] == nil {
      note("tls", "a certificate and its key, or shared_keys, or both", "neither")
    }
    if table["clients"] != nil, table["authority"] == nil, table["shared_keys"] == nil {
      note(
        "tls.clients", "tls.authority or tls.shared_keys with it: nobody is known by name without",
        "neither")
    }
  }

  /// The strings at `key`, one at least, or nil when there are none (which is no mistake).
  func strings(
    in table: TOMLTable, _ key: String, at path: String, form: String
  ) -> [String]? {
    guard let value = table[key] else { return nil }
    guard let array = value.array, array.count > 0, array.allSatisfy({ $0.string != nil }) else {
      note("\(path).\(key)", form, kind(value))
      return nil
    }
    return (0..<array.count).compactMap { array[$0].string }
  }
}
