module {{name}}

go 1.22

require mangrove.invalid/sdk/go v{{version}}
{{replace}}
