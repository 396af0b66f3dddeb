module {{name}}

go 1.22

require mangrove.dev/sdk/go v{{version}}
{{replace}}
